"""The class names of the published data sets, in the order of their ids; the first has id 1."""

VOC = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip

LIS = ("bicycle", "car", "motorbike", "bus", "bottle", "chair", "diningtable", "tvmonitor")
