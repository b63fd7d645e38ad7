"""Files and command lines that somebody made wrong on purpose, and what is to become of them."""
