"""How long the steps of a training should be, measured along the optimizer's own direction."""
