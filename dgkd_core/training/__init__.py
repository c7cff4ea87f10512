"""Training: `loop` trains a task, a batch in and named losses out, by the rates of `optimizer`.

Where to change a loss: `weak.WeakSupervision` has those of image-level labels (teacher and
student), `dgkd_core.distill.dgkd.DGKD.forward` those of distillation, `supervised.SegmenterTask`
the segmenter's, `adapt.ssi_losses` the depth network's. Whatever a task returns is summed, drawn as
a curve and, where it is not finite, named.
"""
