"""Run directories and the durable files in them."""
