"""What a run promises when it is killed, when what it is given is odd or damaged, and when it is long."""
