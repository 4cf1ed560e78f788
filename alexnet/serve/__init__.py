"""The page behind `alexnet serve`: a small server that shows pictures to a trained net."""
