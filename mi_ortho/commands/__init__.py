"""What the commands do once their arguments are parsed; printing is the job of `cli`. One file for each command."""
