"""Reports as single HTML files: what ``report.html`` of a bundle and the pages of ``resnet-bench`` are made of."""
