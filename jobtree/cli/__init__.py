"""The commands, one a file. They are thin: what they show and do is done by the modules that they call."""
