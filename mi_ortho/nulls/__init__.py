"""What a family would look like if nothing interesting were going on, and how large one can be."""
