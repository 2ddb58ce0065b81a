"""What every layer stands on: arrays of any library, checks of arguments, layouts, devices, files."""
