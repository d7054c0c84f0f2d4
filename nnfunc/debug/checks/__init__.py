"""What `doctor` checks of the data, the model, the training and the compiler."""
