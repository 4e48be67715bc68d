"""PIE, progressive image editing (arXiv 2309.11745), over any latent diffusion model."""
