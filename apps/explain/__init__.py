"""Saliency maps of images, from the command line."""
