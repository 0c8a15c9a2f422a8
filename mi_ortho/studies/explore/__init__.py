"""The command `explore`: one page to choose a vector of a family and see everything it does."""
