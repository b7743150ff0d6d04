"""Other libraries' own modules, which ours are held against; a file each."""
