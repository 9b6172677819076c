"""What a network is: frozen specifications, named networks, files; and their realisation in Mininet."""
