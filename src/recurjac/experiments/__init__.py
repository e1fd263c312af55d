"""The experiments of the RecurJac paper (Zhang, Zhang, Hsieh 2019, arXiv:1810.11783): data, training, studies."""
