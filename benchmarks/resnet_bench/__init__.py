"""resnet_bench: measures what resnet_export and resnet_runtime do."""
