"""The sections of params.yaml as types: ranges are part of them, descriptions the documentation."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from dgkd_core.config.choices import BACKBONE, MOST_CLASSES, ClassName, Exposure, Fusion, Rate


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def _ordered(span: tuple[float, float]) -> tuple[float, float]:
    if span[0] > span[1]:
        raise ValueError("expected [low, high] with low <= high")
    return span


def _darkens(ratio: tuple[float, float]) -> tuple[float, float]:
    if ratio[0] < 1:
        raise ValueError(f"{ratio[0]} would brighten, expected at least 1")
    return ratio


Ordered = AfterValidator(_ordered)
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Scale = Annotated[float, Field(ge=0.1, le=4)]
Span = Annotated[tuple[Positive, Positive], Ordered]
Ratio = Annotated[Span, AfterValidator(_darkens)]
Jitter = tuple[Fraction, Fraction, Fraction, Annotated[float, Field(ge=0, le=0.5)]]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Line = Annotated[str, Field(pattern=r"^\S[^\x00-\x1f]*$")]
NOT_USED = "data/none"  # stands for a folder that a data set does not have
DATA_ROOTS = ("root", "sbd_root", "lis_root", "depth_root")  # of the section data: folders


class Scenes(_Section):
    """Size of the built-in data set."""

    train: int = Field(ge=1, description="pictures drawn to train on")
    val: int = Field(ge=1, description="pictures drawn to score on, never trained on")
    size: int = Field(ge=32, le=1024, description="side of a picture, pixels")


class Data(_Section):
    """Where pictures and labels come from."""

    seed: Seed = Field(
        description="seed of the drawn scenes and of the dark pictures; not `seed`, so that runs "
        "with several seeds use the same pictures"
    )
    kind: Literal["scenes", "voc", "lis", "voc2lis", "folder"] = Field(
        description="scenes: drawn by the code; voc: PASCAL VOC 2012; lis: LIS's real pairs; "
        "voc2lis: train on darkened VOC, test on LIS; folder: any pictures with a CSV of labels"
    )
    root: str = Field(
        min_length=1,
        description="the data set's folder: with JPEGImages (voc, voc2lis), with RGB-normal and "
        "RGB-dark (lis), with normal, dark and labels.csv (folder)",
    )
    sbd_root: str = Field(
        min_length=1,
        description="voc, voc2lis: SBD's folder (…/benchmark_RELEASE/dataset) for train_aug and "
        "its masks; data/none: not used",
    )
    lis_root: str = Field(min_length=1, description="voc2lis: LIS's folder; data/none: not used")
    labels: str | None = Field(
        description="a CSV of image-level labels (id, labels[, split]) in data.root; null: the "
        "data set's own, for folder labels.csv"
    )
    classes: list[ClassName] = Field(
        max_length=MOST_CLASSES,
        description="class names to keep, in the order of their ids; [] keeps all; voc: if one is "
        "not a class of VOC, the list must hold all classes of the masks",
    )
    train_list: str = Field(
        min_length=1,
        description="voc: the training list in ImageSets/Segmentation or Main, without .txt "
        "(train_aug in the paper); lis: a split of the annotations or a list of dark ids",
    )
    val_list: str = Field(min_length=1, description="the same for the val pictures")
    long_side: int | None = Field(
        ge=32, description="larger pictures are shrunk to this long side, pixels; null: never"
    )
    depth_root: str = Field(
        min_length=1, description="folder of measured depth maps ID.png, for depth.model: given"
    )
    scenes: Scenes

    @model_validator(mode="after")
    def _check(self) -> Data:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: a name occurs twice, expected each class once")
        if self.kind == "scenes" and self.classes:
            raise ValueError("classes: the built-in scenes keep all their classes, expected []")
        for key in ("train_list", "val_list", "labels"):
            name = getattr(self, key)
            if name is not None and ("/" in name or "\\" in name or name in (".", "..")):
                raise ValueError(f"{key}: {name!r} is a path, expected a plain file name")
        return self


class Physical(_Section):
    """Darkening in linear light with sensor noise."""

    ratio: Ratio = Field(
        description="the light is divided by r, drawn for each picture, log-uniform in this "
        "range; [10, 100]: mean luma about 9 of 255, similar to the paper's figures"
    )
    shot: Span = Field(
        description="shot noise: variance = gain x signal (full scale 1), the gain drawn for each "
        "picture, log-uniform in this range"
    )
    read: bool = Field(
        description="add read noise, its variance drawn to match the shot noise's gain"
    )
    row: float = Field(
        ge=0,
        le=1,
        description="noise shared by a row of pixels: ratio of its standard deviation to that "
        "of the read noise; 0: none",
    )
    bits: int = Field(
        ge=6, le=16, description="bits of the sensor's converter, which rounds the dark signal"
    )
    tone_curve: bool = Field(description="undo and reapply the camera's S-shaped tone curve")


class Simple(_Section):
    """Darkening as beta * (alpha * x) ** gamma plus Gaussian noise."""

    alpha: Span = Field(description="alpha in beta x (alpha x)^gamma, uniform in this range")
    beta: Span = Field(description="beta, uniform in this range: the darkened white")
    gamma: Span = Field(description="gamma, uniform in this range; above 1 darkens shadows more")
    noise: float = Field(ge=0, le=1, description="standard deviation of the noise, full scale 1")


class Lowlight(_Section):
    """How darken makes dark pictures from normal ones."""

    kind: Literal["physical", "simple"] = Field(
        description="physical: a sensor in linear light; simple: a curve and Gaussian noise"
    )
    physical: Physical
    simple: Simple


class Model(_Section):
    """The architecture of teacher, student and segmenter."""

    backbone: str = Field(
        pattern=BACKBONE,
        description="wide_resnet38 (the paper), or timm's: resnet18/34/50/101 or timm:NAME, "
        "NAME being one of timm's architectures",
    )
    weights: str | None = Field(
        description="a local weights file, imagenet (timm fetches its default weights for the "
        "backbone) or null (random)"
    )
    weights_sha256: Sha256 | None = Field(
        description="SHA-256 that the weights file must have; `dgkd preset` fills it in; null: any"
    )
    initialisation: Literal["pytorch", "kaiming"] = Field(
        description="initialisation of the convolutions of head and projections: PyTorch's "
        "default, or Kaiming normal (the paper's release), 2.4 times the standard deviation"
    )
    output_stride: Literal[8, 16, 32] = Field(
        description="picture pixels per deep feature, a side; 8 in the paper"
    )
    width: int = Field(ge=8, le=1024, description="channels of the head, 256 in the paper")
    global_context: bool = Field(
        description="global cue injection and the ASPP's pooled branch in the head, as in the "
        "paper; false: neither, so that the mask of a class lies closer to the object"
    )
    aspp_rates: tuple[Rate, Rate, Rate] = Field(
        description="dilations of the ASPP, in deep features; [12, 24, 36] in the paper"
    )
    pamr_dilations: list[Count] = Field(
        min_length=1,
        description="PAMR dilations in training, in pixels of the masks (stride 4); "
        "[1, 2, 4, 8, 12, 24] in the paper",
    )
    attention: bool = Field(
        description="in training, first refine masks by the attention of a plain transformer's "
        "last blocks, then by PAMR"
    )
    dgf2: Fusion = Field(
        description="depth fusion: off; paper: as published; gated: with a learned weight per "
        "channel that starts at zero, so that it starts as the identity"
    )
    exposure: Exposure = Field(
        description="brightening of the dark picture before the network: none (the paper); gain: "
        "its 99.5th percentile becomes white; gamma: a power that lifts its mean; curve: gain, "
        "then a curve that student and segmenter learn"
    )


class DepthModel(_Section):
    """Training of the small DPT, with depth.model: scenes."""

    pictures: int = Field(ge=16, description="scenes drawn for training")
    held_out: int = Field(ge=1, description="scenes drawn for its error, not trained on")
    size: int = Field(ge=32, le=512, multiple_of=32, description="side of the DPT's input, pixels")
    width: int = Field(ge=16, le=1024, multiple_of=4, description="channels of the transformer")
    iterations: Count = Field(description="training steps")
    batch: Count = Field(description="pictures per step")
    lr: Positive = Field(description="peak learning rate (AdamW)")


class Adapt(_Section):
    """Fine-tuning of the DPT for dark pictures, by its own maps of the normal ones."""

    iterations: int = Field(ge=0, description="training steps; 0: the DPT stays as it is")
    batch: Count = Field(description="pairs of a dark and a normal picture per step")
    lr: Positive = Field(description="peak learning rate (AdamW)")


class Depth(_Section):
    """Depth maps of the dark pictures."""

    model: str = Field(
        min_length=1,
        description="a hub id, a local folder, scenes (trained here), given (data.depth_root) or "
        "gradient (a control: every picture is far at the top and near at the bottom)",
    )
    revision: str | None = Field(
        description="hub revision of the model, or SHA-256 that its folder must have "
        "(`dgkd preset` fills it in); null: any"
    )
    exposure: Literal["none", "gain", "gamma"] = Field(
        description="brightening of the dark picture before the DPT"
    )
    invert: bool = Field(description="depth.model: given: true if far is bright in the maps")
    batch: Count = Field(description="pictures per forward pass")
    adapt: Adapt

    @model_validator(mode="after")
    def _check(self) -> Depth:
        if self.adapt.iterations and self.model in ("given", "gradient"):
            raise ValueError(
                f"adapt.iterations: is {self.adapt.iterations} with model {self.model}, "
                "which is no network, expected 0"
            )
        return self


class _Training(_Section):
    iterations: Count = Field(description="training steps")
    batch: int = Field(ge=2, description="pictures per step, over all processes together")
    validations: int = Field(
        ge=0,
        description="how often val is scored during training, at equal intervals, besides the "
        "score at the end",
    )
    crop: int = Field(ge=32, le=2048, description="side of the square crop, pixels")
    scale: Annotated[tuple[Scale, Scale], Ordered] = Field(
        description="random resize factor before the crop, uniform in this range"
    )
    optimizer: Literal["sgd", "adamw"] = Field(description="sgd (the paper) has momentum 0.9")
    lr: Positive = Field(description="learning rate of pretrained layers after the warm-up")
    lr_min: float = Field(ge=0, description="learning rate of pretrained layers at the end")
    lr_power: float = Field(
        ge=0,
        le=10,
        description="exponent of the polynomial decay, 0.9 for the paper's student; 0: no decay",
    )
    lr_warmup: int = Field(ge=0, description="steps of linear warm-up")
    new_layers: Positive = Field(
        description="learning rate factor of layers that start from random weights; 10 for the "
        "paper's teacher, 1 for its student"
    )
    bias_lr: Positive = Field(
        description="learning rate factor of biases; 2 for the paper's teacher, 1 for its student"
    )
    weight_decay: float = Field(ge=0, description="weight decay")
    no_decay: list[Literal["biases", "norms"]] = Field(
        description="what has no weight decay: biases, norms (their scales, and all other vectors "
        "that are no biases), or both; [biases] for the paper's teacher, [] for its student"
    )
    norms: Literal["trained", "frozen"] = Field(
        description="the backbone's batch norms: trained, with the statistics of each batch (the "
        "paper's student), or frozen, together with the first convolution (the paper's teacher); "
        "without model.weights always trained"
    )
    sync_norms: bool = Field(
        description="with several processes: batch norms use the statistics of the whole batch; "
        "false: of each process's part (the paper)"
    )
    ema: float = Field(
        ge=0,
        lt=1,
        description="decay of an exponential moving average of the weights, which is scored and "
        "saved instead; it averages about the last 1 / (1 - ema) steps, and at the beginning about "
        "a ninth of the steps so far; 0 (the paper): none",
    )
    layer_decay: float = Field(
        gt=0,
        le=1,
        description="learning rate factor from one block (or stage) of the backbone to the one "
        "before it (layer-wise decay, .65 to .9 is usual for transformers); 1: none",
    )
    checkpointing: bool = Field(
        description="activation checkpointing of the backbone's blocks: the same result in less "
        "memory and about a third more time"
    )

    @model_validator(mode="after")
    def _check_training(self) -> _Training:
        if self.lr_min > self.lr:
            raise ValueError(f"lr_min: {self.lr_min} is above lr {self.lr}, expected at most lr")
        return self


class _WeakTraining(_Training):
    mask_warmup: int = Field(ge=0, description="step from which the mask loss is used")
    mask_weight: Positive = Field(description="weight of the mask loss, 1 in the paper")


class _DarkTraining(_Training):
    night: Literal["fixed", "fresh"] = Field(
        description="dark crops to train on; fixed: cut from the dark picture of darken; fresh: "
        "each time a picture is used, its normal crop is darkened anew by lowlight (depth maps "
        "stay those of the fixed pictures) and exposed by the values of the crop, not of the whole "
        "picture. A real dark picture is never replaced"
    )
    night_ratio: Ratio | None = Field(
        description="range of r on which to train with night: fresh, in place of "
        "lowlight.physical.ratio, which the val pictures keep; null: that one"
    )
    jitter: Jitter = Field(
        description="colour jitter as in teacher.jitter, before the crop is darkened, so the same "
        "for its dark and its normal version; only with night: fresh, never for real dark "
        "pictures; [0, 0, 0, 0]: none"
    )

    @model_validator(mode="after")
    def _check_dark(self) -> _DarkTraining:
        unused = {
            "jitter": (any(self.jitter), "[0, 0, 0, 0]"),
            "night_ratio": (self.night_ratio is not None, "null"),
        }
        for key, (given, off) in unused.items():
            if self.night == "fixed" and given:
                raise ValueError(
                    f"{key}: is {list(getattr(self, key))} with night: fixed, whose dark pictures "
                    f"are made already, expected {off} or night: fresh"
                )
        return self


class Teacher(_WeakTraining):
    """Teacher on normal-light pictures."""

    jitter: Jitter = Field(
        description="colour jitter: largest change of brightness, contrast, saturation and hue"
    )
    model: str | None = Field(
        description="the folder of a teacher trained elsewhere (`dgkd convert authors`, or "
        "artifacts/teacher of another run), taken as it is; null: train one here"
    )
    model_sha256: Sha256 | None = Field(
        description="SHA-256 that this folder must have; `dgkd preset` fills it in; null: any"
    )
    focal: float = Field(
        gt=0,
        le=1,
        description="constant f of the class scores' focal term; .01 in the paper; the student "
        "always has .3",
    )
    aspp_norms: Literal["trained", "frozen"] = Field(
        description="the ASPP's batch norms; frozen (the paper): statistics stay 0 and 1, scale "
        "and shift are learned"
    )
    projections: Literal["random", "trained"] = Field(
        description="the teacher's projections of deep and shallow features for distillation: "
        "random (the paper's release), or trained by an auxiliary classifier"
    )


class PairWeights(_Section):
    """Weight of each pair's distillation loss, times λ."""

    map: float = Field(ge=0, description="weight of the masks or logits; 0: not compared")
    deep: float = Field(ge=0, description="weight of the deep features; 0: not compared")
    shallow: float = Field(ge=0, description="weight of the shallow features; 0: not compared")


class Distill(_WeakTraining, _DarkTraining):
    """Student on dark pictures, guided by the teacher."""

    lambda_: float = Field(
        ge=0,
        alias="lambda",
        description="λ, the weight of the distillation losses; 0: no distillation; 1 in the "
        "release",
    )
    weights: PairWeights
    warmup: int = Field(
        ge=0,
        description="steps over which λ rises linearly from 0; 0 (the paper): none",
    )
    map: Literal["masks", "logits"] = Field(
        description="what the pair map compares: masks of the labelled classes by DIST (the "
        "paper); logits of all classes by KL, batch-normalised for the denoiser (after DiffKD)"
    )
    features: Literal["projected", "raw"] = Field(
        description="what deep and shallow are: the backbone's features, each projected by a "
        "convolution (the paper), or raw"
    )
    compare: Literal["dist", "mse", "cosine"] = Field(
        description="loss between deep and shallow features: dist (the paper), mse, or cosine (of "
        "the channels of a pixel)"
    )
    denoiser: Literal["diffusion", "identity"] = Field(
        description="what is applied to the student's tensors before the comparison; identity: "
        "nothing (a control)"
    )
    steps: int = Field(
        ge=1,
        le=10,
        description="DDIM steps: the last half of a schedule of 2 * steps over T = 1000; 5 in the "
        "paper (t = 400, 300, 200, 100, 0)",
    )
    noise_adapter: bool = Field(
        description="mix noise into the student's tensors, with a learned weight; off in the paper"
    )
    autoencoder: Count | None = Field(
        description="channels of the latent of a linear autoencoder, where deep and shallow are "
        "compared; null (the paper): none"
    )
    map_stride: Literal[1, 2, 4] = Field(
        description="stride of the compared masks, pixels; 1 in the paper; logits always have "
        "stride 4"
    )
    init: Literal["weights", "teacher"] = Field(
        description="the student starts from model.weights (paper) or from the teacher"
    )
    long_side: Annotated[tuple[Count, Count], Ordered] | None = Field(
        description="random long side before the crop, pixels, in place of scale; null: scale"
    )
    keep: Literal["last", "best"] = Field(
        description="the student after the last step, or the best one on val (the paper), which "
        "biases the scores on val upwards"
    )

    @property
    def distils(self) -> bool:
        """Whether the student learns from the teacher at all."""
        return self.lambda_ > 0 and any(self.weights.model_dump().values())


class Cam(_Section):
    """Class maps of the training and val pictures."""

    source: Literal["student", "teacher", "mean"] = Field(
        description="student on dark pictures (the paper), teacher on normal ones, or their mean"
    )
    scales: list[Scale] = Field(
        min_length=1,
        description="factors on the picture's size, whose class maps are averaged; "
        "[1.0, 0.5, 1.5, 2.0] in the paper",
    )
    flip: bool = Field(description="average with the mirrored picture")
    batch: Count = Field(description="pictures per forward pass")


class Refine(_Section):
    """Pseudo labels from class maps."""

    method: Literal["none", "pamr", "crf", "attention"] = Field(
        description="how the maps are refined; crf: dense CRF with the usual constants; "
        "attention: by the attention of a plain transformer's last blocks (the student's, or with "
        "guide: normal the teacher's), then by PAMR"
    )
    guide: Literal["dark", "normal"] = Field(
        description="the picture whose edges guide the refinement: dark (the paper; brightened by "
        "model.exposure) or normal"
    )
    depth: bool = Field(description="depth as a fourth channel of PAMR's guide")
    iterations: Count = Field(description="iterations of PAMR or of the CRF")
    dilations: list[Count] = Field(
        min_length=1, description="PAMR dilations, in pixels of the picture"
    )
    threshold: Literal["auto"] | Annotated[float, Field(gt=0, lt=1)] = Field(
        description="a pixel gets the class with the best score if that is at least this, else "
        "background; auto: the value with the best mIoU of the refined maps on val"
    )
    margin: float = Field(
        ge=0,
        lt=1,
        description="pixels whose best score is between threshold x (1 - margin) and "
        "threshold x (1 + margin), but at most (1 + threshold) / 2, become 255, which training "
        "ignores; 0: none",
    )

    @model_validator(mode="after")
    def _check(self) -> Refine:
        if self.depth and self.method not in ("pamr", "attention"):
            raise ValueError(
                f"depth: is true with method {self.method}, expected pamr, attention or false"
            )
        return self


class Segment(_DarkTraining):
    """The segmenter, trained on pseudo labels."""

    init: Literal["weights", "student"] = Field(
        description="where the backbone's first weights come from: model.weights or the student"
    )
    teacher: str | None = Field(
        description="for a second round: the folder of an earlier run's segmenter (a copy of "
        "artifacts/segmenter); its probabilities of the labelled classes on the normal crop "
        "replace the pseudo labels as target; null: pseudo labels"
    )
    teacher_sha256: Sha256 | None = Field(
        description="SHA-256 that this folder must have; `dgkd preset` fills it in; null: any"
    )


class Evaluate(_Section):
    """Scores and figures."""

    scales: list[Scale] = Field(
        min_length=1, description="factors on the picture's size, whose probabilities are averaged"
    )
    flip: bool = Field(description="average with the mirrored picture")
    drop: Fraction = Field(
        description="teacher and student: classes with a probability (sigmoid of the class score, "
        "largest over scales and flip) below this are dropped"
    )
    background_power: Positive = Field(
        description="teacher and student: exponent on the background probability"
    )
    sheet: Count = Field(description="pictures on the figure sheet")
    batch: Count = Field(description="pictures per forward pass")
    sets: dict[str, Annotated[str, Field(min_length=1)]] = Field(
        description="further test sets by name, each with its own metrics: a folder of "
        "photographs (dark ones, or normal/ and dark/; masks/ to score) or a .txt list of files"
    )

    @model_validator(mode="after")
    def _check(self) -> Evaluate:
        for name in self.sets:
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name):
                raise ValueError(f"sets: {name!r} is no name, expected letters, digits, _ and -")
        return self


class Package(_Section):
    """The model folder."""

    student: bool = Field(
        description="include the student, for its class maps; false: about half the size"
    )
    half: bool = Field(
        description="store the weights as float16: half the size, and masks that differ in a few "
        "pixels; networks still compute in float32"
    )
    notes: list[Line] = Field(
        description="extra lines for the model card: source and terms of the pictures and of the "
        "first weights"
    )


class Params(_Section):
    """All of params.yaml."""

    seed: Seed = Field(description="seed of all random numbers in training")
    deterministic: bool = Field(
        description="repeated runs write the same bytes, also on a GPU; false is faster there"
    )
    threads: Count | None = Field(
        description="CPU threads of the networks; null: all cores. Another number of threads "
        "rounds differently; with 1 the number of cores changes no byte"
    )
    compile: bool = Field(description="torch.compile in teacher, distill and segment")
    data: Data
    lowlight: Lowlight
    model: Model
    depth_model: DepthModel
    depth: Depth
    teacher: Teacher
    distill: Distill
    cam: Cam
    refine: Refine
    segment: Segment
    evaluate: Evaluate
    package: Package
