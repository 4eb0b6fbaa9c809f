"""Which fast tests cover which of the method's files, for the mutation run."""

from __future__ import annotations

# source file -> its fast tests: files below tests/, and pytest's -k
FILES: dict[str, tuple[str, str]] = {
    "identity/blending.py": ("identity/test_files.py", "blend and not nvidia"),
    "identity/hooks.py": (
        "pulid_flux/test_hooks.py house/test_nvidia.py",
        "sum_of_weights or true_cfg or share_the_effect or has_its_mask or replaced_forward "
        "or caches or of_that_area or only_the_positive or interrupt or deepclone or otherwise "
        "or tiles or leave_dynamic or each_gpu",
    ),
    "identity/id_mlp.py": (
        "pulid_sdxl/test_checkpoint.py pulid_sdxl/test_golden.py",
        "(named or layout or encoder_of_v1 or released_sizes) and not nvidia",
    ),
    "identity/prepared.py": (
        "pulid_flux/test_hooks.py pulid_flux/test_uses.py house/test_nvidia.py",
        "fold or each_gpu or another_gpu or device or test_uses or leave_dynamic",
    ),
    "measure/disruption.py": ("measure/test_disruption.py", ""),
    "measure/pose.py": ("measure/test_pose.py", ""),
    "measure/similarity.py": ("measure/test_similarity.py", ""),
    "pulid_sdxl/apply.py": ("pulid_sdxl/test_apply.py", ""),
    "pulid_sdxl/checkpoint.py": ("pulid_sdxl/test_checkpoint.py", "not nvidia"),
    "pulid_sdxl/hooks.py": ("pulid_sdxl/test_hooks.py pulid_sdxl/test_foreign_packs.py", ""),
    "pulid_sdxl/id_attention.py": (
        "pulid_sdxl/test_golden.py",
        "(test_attention or zeros) and not nvidia",
    ),
    "pulid_sdxl/unet.py": ("pulid_sdxl/test_apply.py", "order or by_name"),
    "pulid_sdxl/uses.py": (
        "pulid_sdxl/test_hooks.py pulid_sdxl/test_apply.py",
        "authors_processors or prepares_nothing or setting or bit_identical",
    ),
    "identity/files.py": ("identity/test_files.py identity/test_files_on_disk.py", "not nvidia"),
    "identity/fusion.py": ("identity/test_fusion.py", "not nvidia"),
    "identity/id_encoder.py": (
        "identity/test_id_encoder.py pulid_flux/test_checkpoint.py",
        "not nvidia and (id_encoder or sizes or tensor or named or width or overwritten)",
    ),
    "identity/id_former.py": (
        "identity/test_id_encoder.py pulid_flux/test_checkpoint.py pulid_flux/test_golden.py",
        "(nothing or sizes or tensor or id_encoder or photos) and not nvidia",
    ),
    "identity/identity.py": (
        "identity/test_run.py identity/test_fusion.py identity/test_files.py",
        "(never or refuses or blend) and not nvidia",
    ),
    "identity/masks.py": (
        "identity/test_masks.py identity/test_run.py identity/test_properties.py",
        "(region or box or mask or area) and not nvidia",
    ),
    "identity/recent.py": ("identity/test_recent.py", "oldest or megabyte or keeps_no"),
    "identity/rows.py": (
        "identity/test_run.py identity/test_properties.py",
        "prompts or row or of_another_size",
    ),
    "identity/run.py": ("identity/test_run.py identity/test_tile_masks.py", ""),
    "identity/window.py": (
        "identity/test_window.py identity/test_properties.py",
        "window or steps or fraction",
    ),
    "pulid_flux/apply.py": (
        "pulid_flux/test_apply.py pulid_flux/test_checkpoint.py",
        "(refused or other or flux_1 or flux_2 or widths or older_host or how_many) and not nvidia",
    ),
    "pulid_flux/blocks.py": ("pulid_flux/test_blocks.py", ""),
    "pulid_flux/checkpoint.py": ("pulid_flux/test_checkpoint.py", "not nvidia"),
    "pulid_flux/cross_attention.py": (
        "pulid_flux/test_cross_attention.py",
        "authors or gain or place or flow",
    ),
    "pulid_flux/folding.py": (
        "pulid_flux/test_hooks.py",
        "fold or each_gpu or another_gpu or device",
    ),
    "pulid_flux/hooks.py": (
        "pulid_flux/test_hooks.py house/test_nvidia.py",
        "sum_of_weights or true_cfg or share_the_effect or has_its_mask or replaced_forward "
        "or caches or of_that_area or only_the_positive or interrupt or deepclone or otherwise "
        "or tiles or leave_dynamic",
    ),
    "pulid_flux/uses.py": (
        "pulid_flux/test_uses.py pulid_flux/test_hooks.py",
        "test_uses or sum_of_weights or true_cfg or only_the_positive",
    ),
    "encoders/align.py": ("encoders/test_align.py", ""),
    "encoders/detection.py": (
        "encoders/test_detection.py encoders/test_landmarks.py encoders/test_faces.py",
        "overlap_of or each_order or portrait or lies or retry or without_a_face or points "
        "or only_retinaface",
    ),
    "encoders/eva_clip.py": (
        "encoders/test_eva_clip.py",
        "not meets and not every_size and not nvidia",
    ),
    "encoders/faces.py": (
        "encoders/test_faces.py encoders/test_landmarks.py",
        "only_retinaface or shapes or shown or colours or beyond or skip or plain or cosine "
        "or unfit or by_hand or (index and (named or leftmost))",
    ),
    "encoders/landmarks.py": (
        "encoders/test_landmarks.py encoders/test_weights.py",
        "matched or own_points or torch_files",
    ),
    "encoders/packages.py": ("encoders/test_packages.py", "not install_line"),
    "encoders/parsing.py": ("encoders/test_parsing.py encoders/test_weights.py", ""),
    "encoders/photo.py": (
        "encoders/test_photo.py encoders/test_faces.py",
        "sixteen or edges or bands or alpha or annotated or held",
    ),
    "encoders/pixels.py": ("encoders/test_pixels.py", ""),
    "encoders/providers.py": (
        "encoders/test_providers.py",
        "auto or a_provider or of_version or comfyuis or libraries or accelerator",
    ),
    "encoders/sessions.py": (
        "encoders/test_sessions.py encoders/test_providers.py",
        "arguments or pack or onnx or published or live or again",
    ),
    "encoders/weights.py": ("encoders/test_weights.py encoders/test_parsing.py", ""),
}
