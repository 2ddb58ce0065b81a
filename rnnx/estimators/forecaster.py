class Forecaster: pass
