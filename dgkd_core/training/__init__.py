"""Training: `loop` trains a task (a batch in, named losses out) with the optimizer of `optimizer`.

Where to change a loss: `weak.WeakSupervision` has those of image-level labels (teacher and
student), `dgkd_core.distill.dgkd.DGKD.forward` those of distillation, `supervised.SegmenterTask`
the segmenter's, `adapt.ssi_losses` the depth network's. The losses that a task returns are summed
and plotted by name; one that is not finite stops the training and is named.
"""
