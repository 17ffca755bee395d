"""What is asked, and when: a file for each kind of load."""
