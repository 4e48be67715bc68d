"""Films and series whose association is set by hand: Image-Longitudinal (arXiv 2410.16177).

Deltadahl, Vall, Ivaturi, Korsbo: random effects of a mixed-effects model make a series; noise of
variance v between them and what an image shows bounds what any image model can explain by 1/(1+v).
"""
