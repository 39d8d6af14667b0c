"""What measures for a report: each instrument reads a program and returns data, and leaves the program as it was."""
