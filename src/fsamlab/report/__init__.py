"""Results to look at: the HTML report, matplotlib figures for papers, and the colours both have in common."""
