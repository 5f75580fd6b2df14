"""Programs for those who work on tfgrad: notebooks, the zoo of models, the site."""
