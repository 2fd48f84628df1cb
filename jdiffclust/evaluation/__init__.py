"""How good a fit is, and how it went.

`scores` compares clusters with labels that the fit never saw; `diagnostics` says how EM
goes; `features` maps images to numbers; `latent_space` says what the latents show; and
`sample_quality` measures how good generated images are.
"""
