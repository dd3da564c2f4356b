"""Pictures and a film of what a model does with a data set: Figures 5, 6 and 7 of the paper, and the film of A.7."""
