"""The commands of `raydix`, a file for each."""
