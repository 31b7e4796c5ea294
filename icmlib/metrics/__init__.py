"""What a decoded image costs, how it looks, and what a machine sees in it.

    fidelity.py      x, x_hat -> PSNR, SSIM, VGG distance (LPIPS), task-feature distance
    checkerboard.py  R, G, B, Y, Cb, Cr -> pooled Welch spectra -> LPP (dB) and PRMS (grey levels)
    detection.py     ground truth, detections -> the COCO figures; AP on any resample of images
    bd.py            two rate-quality curves -> BD-rate, BD-quality, with overlap and interval
    bootstrap.py     which images are drawn, and the 95 % interval of what they read

Images are RGB floats in [0, 1]; a decoded image is rounded to 8 bits (`fidelity.to_8bit`) once,
before any metric sees it. Nothing here knows a codec or a task network.
"""
