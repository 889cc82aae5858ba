// The build for every processor: plain loops, and the definition of the bits that the others must give.
#include "kernels.inl"
