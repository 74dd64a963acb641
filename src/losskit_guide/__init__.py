"""What losskit knows about its losses, for people: cards, curves, plots and the command line. Nothing here needs torch.

The cards are made from the declarations by `losskit.describe` when the package is built; see `catalogue.json`.
"""
