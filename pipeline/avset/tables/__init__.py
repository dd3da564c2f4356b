"""Tables over methods and variants: what is asked, which cells that takes, and one page of results."""
