"""The routers' index beside other ways to keep one."""
