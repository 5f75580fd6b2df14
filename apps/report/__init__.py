"""The command `report`: a page about a trained network."""
