"""Every ResNet of timm, torchvision and others, from the module to engines: ``make zoo`` writes docs/models.md."""
