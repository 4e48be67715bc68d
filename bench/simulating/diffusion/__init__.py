"""A small latent diffusion model of films, conditioned on a vector, that trains on a CPU."""
