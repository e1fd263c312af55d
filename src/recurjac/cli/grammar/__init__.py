"""What can be typed: the parser of every command, without anything that takes long to import, such as PyTorch."""
