"""The patch embedding over several devices, by the frameworks' own engines; a file each."""
