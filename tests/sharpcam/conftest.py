from fake_gpu import gpu as gpu
