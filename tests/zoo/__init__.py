"""Every ResNet that timm and torchvision build, from the module to engines: ``make zoo`` writes docs/models.md."""
