"""Saliency maps of a whole data set through Apache Beam."""
