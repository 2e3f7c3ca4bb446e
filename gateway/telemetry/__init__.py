"""What happened, told to people and machines, off the data path."""
