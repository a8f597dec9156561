"""Configurations of the variants t0 and t1, and the modules made from them (diffusers and transformers classes)."""

import torch
from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video, LTX2VideoTransformer3DModel
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

TEXT_TOKENS = 64
REGISTERS = 64
AUDIO_LATENTS_PER_SECOND = 25

# heads: of video and audio attention; dims: per head. Everything else follows from these.
VARIANTS = {
    "t0": dict(layers=6, heads=2, dim=64, audio_dim=32, latent=32, vae_enc=(32, 64), vae_dec=(32, 64), factor=(1, 2),
               vae_layers=(1, 1, 1), vae_dec_layers=(1, 1, 1), audio_latent=2, vocoder=64, vocab=512,
               text=dict(hidden=96, mlp=256, layers=3, heads=3)),
    "t1": dict(layers=8, heads=3, dim=64, audio_dim=32, latent=64, vae_enc=(64, 64), vae_dec=(64, 64), factor=(1, 1),
               vae_layers=(1, 1, 1), vae_dec_layers=(2, 2, 2), audio_latent=4, vocoder=128, vocab=1024,
               text=dict(hidden=128, mlp=384, layers=4, heads=4)),
}
SCALE_FACTORS = (4, 16, 16)  # Frames, rows and columns of one video latent.


def video_vae(variant):
    v = VARIANTS[variant]
    return AutoencoderKLLTX2Video(
        latent_channels=v["latent"], block_out_channels=v["vae_enc"], down_block_types=("LTX2VideoDownBlock3D",) * 2,
        decoder_block_out_channels=v["vae_dec"], layers_per_block=v["vae_layers"], decoder_layers_per_block=v["vae_dec_layers"],
        spatio_temporal_scaling=(True, True), decoder_spatio_temporal_scaling=(True, True),
        decoder_inject_noise=(False,) * 3, downsample_type=("spatiotemporal",) * 2, upsample_type=("spatiotemporal",) * 2,
        upsample_residual=(False,) * 2, upsample_factor=v["factor"], timestep_conditioning=False, patch_size=4, patch_size_t=1,
        encoder_causal=True, decoder_causal=False, encoder_spatial_padding_mode="zeros", decoder_spatial_padding_mode="zeros",
        spatial_compression_ratio=SCALE_FACTORS[1], temporal_compression_ratio=SCALE_FACTORS[0])


def audio_vae(variant):
    latent = VARIANTS[variant]["audio_latent"]
    return AutoencoderKLLTX2Audio(
        base_channels=latent * 16, output_channels=1, ch_mult=(1, 1, 1), num_res_blocks=1, attn_resolutions=None, in_channels=1,
        resolution=256, latent_channels=latent, norm_type="pixel", causality_axis="height", dropout=0.0,
        mid_block_add_attention=False, sample_rate=16000, mel_hop_length=160, is_causal=True, mel_bins=64, double_z=True)


def vocoder(variant):
    return LTX2Vocoder(
        in_channels=64, hidden_channels=VARIANTS[variant]["vocoder"], out_channels=1, upsample_kernel_sizes=[11, 8, 8, 4],
        upsample_factors=[5, 4, 4, 2], resnet_kernel_sizes=[3, 7, 11], resnet_dilations=[[1, 3, 5]] * 3, act_fn="leaky_relu",
        leaky_relu_negative_slope=0.1, final_act_fn="tanh", final_bias=True, output_sampling_rate=16000)


def transformer(variant):
    v = VARIANTS[variant]
    d, a = v["heads"] * v["dim"], v["heads"] * v["audio_dim"]
    return LTX2VideoTransformer3DModel(
        in_channels=v["latent"], out_channels=v["latent"], patch_size=1, patch_size_t=1, num_attention_heads=v["heads"],
        attention_head_dim=v["dim"], cross_attention_dim=d, vae_scale_factors=SCALE_FACTORS,
        audio_in_channels=v["audio_latent"] * 16, audio_out_channels=v["audio_latent"] * 16, audio_num_attention_heads=v["heads"],
        audio_attention_head_dim=v["audio_dim"], audio_cross_attention_dim=a, num_layers=v["layers"],
        caption_channels=v["text"]["hidden"], rope_type="split", gated_attn=True, audio_gated_attn=True, cross_attn_mod=True,
        audio_cross_attn_mod=True, use_prompt_embeddings=False, perturbed_attn=True)


def connectors(variant):
    v = VARIANTS[variant]
    return LTX2TextConnectors(
        caption_channels=v["text"]["hidden"], text_proj_in_factor=v["text"]["layers"] + 1,
        video_connector_num_attention_heads=v["heads"], video_connector_attention_head_dim=v["dim"], video_connector_num_layers=1,
        video_connector_num_learnable_registers=REGISTERS, video_gated_attn=True,
        audio_connector_num_attention_heads=v["heads"], audio_connector_attention_head_dim=v["audio_dim"],
        audio_connector_num_layers=1, audio_connector_num_learnable_registers=REGISTERS, audio_gated_attn=True, rope_type="split",
        per_modality_projections=True, video_hidden_dim=v["heads"] * v["dim"], audio_hidden_dim=v["heads"] * v["audio_dim"],
        proj_bias=True)


def text_encoder(variant):
    t, n = VARIANTS[variant]["text"], VARIANTS[variant]["text"]["layers"]
    text = dict(
        vocab_size=VARIANTS[variant]["vocab"], hidden_size=t["hidden"], intermediate_size=t["mlp"], num_hidden_layers=n,
        num_attention_heads=t["heads"], num_key_value_heads=1, head_dim=32, query_pre_attn_scalar=32, sliding_window=64,
        layer_types=["sliding_attention"] * (n - 1) + ["full_attention"], max_position_embeddings=1024,
        rope_parameters={"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}},
        bos_token_id=2, eos_token_id=1, pad_token_id=0, attention_dropout=0.0)
    vision = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1, image_size=16, patch_size=8)
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=1, image_token_index=4,
                          boi_token_index=5, eoi_token_index=6)
    return Gemma3ForConditionalGeneration(config)


def initialise(dit, conn):
    """Gates, modulation and outputs start at zero, so that every block starts as the identity."""
    with torch.no_grad():
        for name, p in dit.named_parameters():
            adaln = name.split(".")[-2:-1] == ["linear"] and ("time_embed" in name or "av_cross_attn" in name or "adaln" in name)
            if adaln or "scale_shift_table" in name or "to_gate_logits" in name or name.split(".")[0] in ("proj_out", "audio_proj_out"):
                p.zero_()
        for side in (conn.video_connector, conn.audio_connector):
            side.learnable_registers.normal_(0.0, 0.02)
            for block in side.transformer_blocks:
                block.attn1.to_gate_logits.weight.zero_()
                block.attn1.to_gate_logits.bias.zero_()


def parameter_count(module):
    return sum(p.numel() for p in module.parameters())
