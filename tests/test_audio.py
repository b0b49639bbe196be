"""Sound: reading damaged and sound files, windows, the codec, its metrics, and the whole way by command."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import soundfile
import torch
from conftest import SHARED, assert_same, final_state, stopping_after
from typer.testing import CliRunner

from morphogen import api
from morphogen.cli import app
from morphogen.data import open_source, split
from morphogen.data.audio import Clip, Span, cut, fit_audio, joined, padded, plan_clip, read_audio, windows
from morphogen.data.builtin import NOTES
from morphogen.data.dataset import Dataset
from morphogen.data.images import BadItem
from morphogen.data.recordings import prepare_audio
from morphogen.domains import Data
from morphogen.errors import MorphogenError, UsageError
from morphogen.families.augment import gain, masks, shift
from morphogen.metrics.sound import cepstra, faults, matched, mel_cepstral_distortion, nearest, stoi
from morphogen.modalities import Audio
from morphogen.nets import DECODERS, ENCODERS, build_network
from morphogen.nets.frames import Still
from morphogen.nets.vocoder import Analysis, InverseSTFT, mel_filters
from morphogen.objectives.spectral import multi_resolution_distance
from morphogen.run import load_tensors

RATE = 8000


def tone(hz: float, seconds: float, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def pitch_of(wave: np.ndarray, rate: int = RATE) -> float:
    """The frequency in Hz of a tone, from the strongest bin of a long transform and its neighbours."""
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 8 * len(wave)))
    return float(spectrum.argmax() * rate / (8 * len(wave)))


# ---- networks along time


def test_a_code_along_time_keeps_its_order_and_fits_every_length():
    """What is heard at the end is not in the code of the beginning; and a code need not come out even."""
    options = {"kind": "frames", "width": 8, "downs": 2}
    for space in ((1, 8, 256), (2, 5, 30)):
        x, y = torch.randn(2, *space), torch.tensor([0, 1])
        for wide in (64, 61, 7):
            code = build_network(ENCODERS, options, space=space, outputs=wide)(x, None)
            decoder = build_network(DECODERS, options, space=space, latent_dim=wide, classes=2)
            assert code.shape == (2, wide)
            assert decoder(code, y).shape == x.shape
    encoder = build_network(ENCODERS, {**options, "still": False}, space=(1, 8, 256), outputs=6 * 64)
    x = torch.randn(1, 1, 8, 256)
    changed = x.clone()
    changed[..., 192:] += 1
    difference = (encoder(x, None) - encoder(changed, None)).view(6, 64).abs()
    assert difference[:, :32].max() == 0 < difference[:, 56:].min()


def test_a_code_with_places_keeps_them_and_fits_every_size():
    """What changes in one corner is not in the opposite corner's code; one that does not come out even is refused."""
    options = {"kind": "maps", "width": 4, "downs": 2, "blocks": 1}
    for space, places in (((1, 8, 64), 32), ((2, 5, 30), 16)):
        x, y = torch.randn(2, *space), torch.tensor([0, 1])
        code = build_network(ENCODERS, options, space=space, outputs=4 * places)(x, None)
        decoder = build_network(DECODERS, options, space=space, latent_dim=2 * places, classes=2)
        assert code.shape == (2, 4 * places)
        assert decoder(code[:, : 2 * places], y).shape == x.shape
        with pytest.raises(UsageError, match=f"multiple of the {places} places"):
            build_network(DECODERS, options, space=space, latent_dim=places + 1)
    with pytest.raises(UsageError, match="one place only"):
        build_network(ENCODERS, options, space=(1, 4, 4), outputs=8)
    encoder = build_network(ENCODERS, {**options, "still": False}, space=(1, 64, 64), outputs=2 * 3 * 256)
    x = torch.randn(1, 1, 64, 64)
    changed = x.clone()
    changed[..., 48:, 48:] += 1
    difference = (encoder(x, None) - encoder(changed, None)).view(6, 16, 16).abs()
    assert difference[:, :7].max() == difference[:, :, :7].max() == 0 < difference[:, 14:, 14:].min()


def test_what_does_not_change_along_time_is_taken_out():
    h = torch.randn(3, 5, 200)
    still = Still()(7 + 2 * h)
    assert torch.allclose(still.mean(2), torch.zeros(3, 5), atol=1e-5)
    assert torch.allclose(still.var(2, unbiased=False), torch.ones(3, 5), atol=1e-3)
    assert torch.allclose(still, Still()(h), atol=1e-3)


# ---- reading


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_every_format_is_read_at_its_own_rate(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    soundfile.write(path, tone(440, 0.5, 16_000), 16_000)
    wave, rate = read_audio(path)
    assert rate == 16_000
    assert wave.shape[1] == 1
    assert abs(len(wave) - 8000) <= 2500  # mp3 pads
    assert pitch_of(wave[1000:7000, 0], rate) == pytest.approx(440, abs=1)


def write_folder(folder, count: int = 40) -> None:
    for speaker, hz in (("ann", 300), ("bob", 700)):
        for take in range(count // 2):
            path = folder / f"{take % 10}_{speaker}_{take}.wav"
            soundfile.write(path, tone(hz + 5 * take, 0.2 + 0.01 * take), RATE)


def test_bad_files_are_listed_with_their_reason_and_left_out(tmp_path):
    write_folder(tmp_path, 60)
    (tmp_path / "a-empty.wav").write_bytes(b"")
    (tmp_path / "b-noise.wav").write_bytes(b"this is not sound at all" * 20)
    (tmp_path / "c-note.txt").write_text("a note")
    soundfile.write(tmp_path / "d-silent.wav", np.zeros(4000), RATE)
    soundfile.write(tmp_path / "e-short.wav", tone(300, 0.01), RATE)
    data = prepare_audio(open_source(str(tmp_path)))
    reasons = {path.rsplit("/", 1)[1]: reason for path, reason in data.skipped}
    assert reasons == {"a-empty.wav": "empty file", "b-noise.wav": "damaged", "c-note.txt": "not audio",
                       "d-silent.wav": "silent", "e-short.wav": "shorter than 20 ms"}  # fmt: skip
    assert len(data) == 60


def test_a_truncated_recording_is_still_read_or_listed_never_a_crash(tmp_path):
    whole = tmp_path / "x.flac"
    soundfile.write(whole, tone(440, 1.0), RATE)
    cut_short = tmp_path / "y.flac"
    cut_short.write_bytes(whole.read_bytes()[:200])
    try:
        wave, _ = read_audio(cut_short)
        assert len(wave) < RATE
    except BadItem as error:
        assert error.reason in ("damaged", "shorter than 20 ms", "silent")


def test_too_many_bad_files_stop_with_one_sentence(tmp_path):
    write_folder(tmp_path)
    for i in range(10):
        (tmp_path / f"z{i}.wav").write_bytes(b"no")
    with pytest.raises(MorphogenError, match="10 of 50 files"):
        prepare_audio(open_source(str(tmp_path)))


def test_numbers_without_a_rate_are_refused_in_a_sentence(tmp_path):
    np.save(tmp_path / "x.npy", np.stack([tone(300, 0.5)] * 40))
    with pytest.raises(UsageError, match=r"data\.rate"):
        prepare_audio(open_source(str(tmp_path / "x.npy")))
    data = prepare_audio(open_source(str(tmp_path / "x.npy")), rate=RATE)
    assert (len(data), data.rate) == (40, RATE)


def test_arrays_of_16_bits_and_of_two_channels_are_sound(tmp_path):
    """Full scale is 32768, so -32768 is -1 exactly; the channels stay apart, and a recipe for pictures refuses them."""
    mono = np.tile(np.array([16384, -32768, 0, 8192], np.int16), (40, 400))
    stereo = np.stack([tone(300, 0.2), tone(600, 0.2)], 1)[None].repeat(40, 0)
    for name, array, channels in (("mono", mono, 1), ("stereo", stereo, 2), ("both", (stereo * 32767).astype("i2"), 2)):
        np.save(tmp_path / f"{name}.npy", array)
        source = open_source(str(tmp_path / f"{name}.npy"))
        data = prepare_audio(source, rate=RATE, channels=channels)
        assert (source.space, data.item_shape) == ("audio", (channels, 2048)) and len(data) == 40
    assert open_source(str(tmp_path / "mono.npy")).load(3)[:4].tolist() == [0.5, -1.0, 0.0, 0.25]
    left, right = (np.abs(np.fft.rfft(wave)) for wave in data.data[0].astype(float))
    assert np.argmax(right) == pytest.approx(2 * np.argmax(left), abs=1)
    with pytest.raises(UsageError, match="recipe for audio"):
        api.train("vae-image", str(tmp_path / "stereo.npy"), out=tmp_path / "no", steps=1)
    with pytest.raises(UsageError, match=r"data\.rate"):
        prepare_audio(open_source(str(tmp_path / "mono.npy")))


def test_the_scores_of_an_unconditional_model_learn_the_attribute_that_can_be_learned(tmp_path):
    """The takes have too few recordings each; of what remains, the one with more values; or what the user names."""
    rows = [(digit, speaker, take) for digit in range(3) for speaker in ("ann", "bob") for take in range(110)]
    labels = dict(zip(("digit", "speaker", "take"), np.array(rows, str).T, strict=True))
    items = Dataset(np.zeros((len(rows), 1, 64), np.int16), [""] * len(rows), labels, [], "", "audio", RATE)
    data = Data(items, items, None, [], "")
    assert data.evaluation_label() == "digit"
    data.content = "speaker"
    assert data.evaluation_label() == "speaker"
    data.label = "digit"
    assert data.evaluation_label() == "digit"  # what conditions the model
    few = Data(items.subset(np.arange(0, len(rows), 4)), items, None, [], "")
    assert few.evaluation_label() is None


def test_resampling_keeps_the_pitch_and_removes_what_does_not_fit():
    both = tone(440, 1.0, 16_000) + tone(6000, 1.0, 16_000)  # 6 kHz would fold to 2 kHz at a rate of 8 kHz
    wave, factor = fit_audio(both[:, None], 16_000, Clip(RATE, 8192))
    assert wave.shape == (1, 8000)
    spectrum = np.abs(np.fft.rfft(wave[0] * np.hanning(8000)))
    assert spectrum.argmax() == 440
    assert spectrum[1950:2050].max() < 0.003 * spectrum.max()
    assert np.abs(wave).max() == pytest.approx(0.95, abs=1e-3)
    assert factor == pytest.approx(0.95 / 0.5, rel=0.02)


def test_stereo_is_mixed_unless_it_is_asked_for():
    left_right = np.stack([tone(300, 0.5), np.zeros(4000, np.float32)], 1)
    assert fit_audio(left_right, RATE, Clip(RATE, 4096))[0].shape == (1, 4000)
    two, _ = fit_audio(left_right, RATE, Clip(RATE, 4096, 2))
    assert np.abs(two[1]).max() == 0
    assert np.abs(two[0]).max() == pytest.approx(0.95, abs=1e-3)


def test_the_default_window_holds_nearly_all_recordings_and_is_bounded():
    shapes = [(round(RATE * s), 1, RATE) for s in np.linspace(0.2, 1.0, 500)]
    clip = plan_clip(shapes, None, None, None)
    assert (clip.rate, clip.n_fft, clip.hop, clip.mels, clip.channels) == (8000, 256, 128, 64, 1)
    assert clip.samples == 8192
    assert plan_clip([(60 * 44_100, 2, 44_100)], None, None, None).samples == 128 * 512
    assert plan_clip([(8000, 1, 8000)], 16_000, 0.5, 2) == Clip(16_000, 7936, 2)
    with pytest.raises(UsageError, match=r"data\.seconds"):
        plan_clip(shapes, None, 0.01, None)


# ---- windows


def test_short_recordings_are_padded_equally():
    wave = np.full((1, 100), 0.5, np.float32)
    window, start = padded(wave, (0, 100), 160)
    assert start == -30
    assert (window[0, :30] == 0).all() and (window[0, 130:] == 0).all()
    assert (window[0, 30:130] == round(0.5 * 32767)).all()


def test_a_little_too_long_gives_the_loudest_part_and_long_ones_are_cut_in_pauses():
    wave = np.zeros((1, 1400), np.float32)
    wave[0, 300:1300] = 0.5
    assert cut(wave, 1000) == [(300, 1300)]
    long = np.ones((1, 3000), np.float32)
    long[0, 760:840] = 0  # a pause in the second half of the first window
    pieces = cut(long, 1000)
    assert pieces[0][0] == 0
    assert 760 <= pieces[0][1] <= 840
    assert all(a == b for (_, a), (b, _) in itertools.pairwise(pieces))
    assert pieces[-1][1] == 3000
    silent_end = np.concatenate([np.ones((1, 1000)), np.zeros((1, 4000))], 1).astype(np.float32)
    assert all(a < 1000 for a, _ in cut(silent_end, 1000))


def test_windows_that_cover_a_recording_make_it_again():
    wave = np.random.default_rng(0).uniform(-0.9, 0.9, (1, 5321)).astype(np.float32)
    for length in (5321, 700):
        part = wave[:, :length]
        found = [(padded(part, piece, 1024)) for piece in windows(part, 1024)]
        spans = [Span(0, start, length, 2.0) for _, start in found]
        whole = joined([w / 32767 * 2 for w, _ in found], spans)  # as if the recording had been doubled
        assert whole.shape == (1, length)
        assert np.abs(whole - part).max() < 1e-4


def test_windows_of_one_recording_stay_on_one_side_of_the_split(tmp_path):
    for i in range(40):
        soundfile.write(tmp_path / f"{i:02d}.wav", tone(200 + 20 * i, 3.0 if i % 2 else 0.4), RATE)
    data = prepare_audio(open_source(str(tmp_path)), seconds=1.0)
    assert len(data) > 40
    train, heldout = split(data, 0.2)
    assert not {s.recording for s in train.spans} & {s.recording for s in heldout.spans}
    assert len(train) + len(heldout) == len(data)


# ---- codec


def test_the_inverse_stft_is_exact():
    n_fft, hop = 64, 16
    wave = torch.randn(2, 40 * hop)
    side = (n_fft - hop) // 2
    flat = torch.nn.functional.pad(wave, (side, n_fft - hop - side))
    bins = torch.stft(flat, n_fft, hop, window=torch.hann_window(n_fft), center=False, return_complex=True)
    again = InverseSTFT(n_fft, hop)(bins.real.transpose(1, 2), bins.imag.transpose(1, 2))
    assert again.shape == wave.shape
    assert (again - wave)[:, n_fft:-n_fft].abs().max() < 1e-5


def test_mel_filters_peak_at_their_centres_and_a_tone_in_its_band():
    filters = mel_filters(RATE, 256, 64)
    assert filters.shape == (64, 129)
    assert (filters >= 0).all() and (filters.sum(1) > 0).all()
    analysis = Analysis(RATE, 256, 128, 64)
    mel = 2595 * math.log10(1 + 1000 / 700)
    low, high = (2595 * math.log10(1 + f / 700) for f in (40, 4000))
    found = analysis(torch.from_numpy(tone(1000, 1.024))[None, None])
    assert found.shape == (1, 1, 64, 64)
    assert int(found[0, 0, :, 32].argmax()) == round((mel - low) / (high - low) * 65) - 1
    silence = analysis(torch.zeros(1, 1, 8192))
    assert (silence == math.log(1e-4)).all()


def an_audio(**options) -> Audio:
    return Audio((1, 64, 16), RATE, 2048, 256, 128, vocoder={"dim": 16, "depth": 1}, **options)


def test_waves_keep_every_bit_on_the_way_through_arrays_and_files(tmp_path):
    audio = an_audio()
    raw = np.random.default_rng(0).integers(-32767, 32768, (3, 1, 2048)).astype(np.int16)
    assert (audio.raw(audio.array(raw)) == raw).all()
    audio.save(raw[0], tmp_path / "x.wav")
    again, rate = soundfile.read(tmp_path / "x.wav", dtype="int16")
    assert rate == RATE
    assert (again == raw[0, 0]).all()


def test_what_is_decoded_neither_clicks_nor_clips_and_silence_is_digital():
    audio = an_audio()
    assert (audio.decode(torch.full((2, 1, 64, 16), -1.0)) == 0).all()
    loud = audio.decode(torch.ones(2, 1, 64, 16))
    assert (loud[:, :, [0, -1]] == 0).all()
    assert np.abs(loud.astype(int)).max() <= 32767
    half = torch.full((1, 1, 64, 16), -1.0)
    half[..., :8] = 0.5
    assert (audio.decode(half)[..., 9 * 128 :] == 0).all()


def test_spectral_distance_is_zero_for_itself_and_knows_a_gain():
    wave = torch.randn(2, 4096) * 0.1
    assert float(multi_resolution_distance(wave, wave, (128, 256))) == pytest.approx(0, abs=1e-6)
    # twice as loud: convergence 1, |log 2| of every magnitude
    twice = float(multi_resolution_distance(2 * wave, wave, (128, 256)))
    assert twice == pytest.approx(1 + 0.5 * math.log(2), rel=1e-3)


# ---- augmentation


def test_augmentation_of_sound_leaves_silence_silent():
    x = torch.full((4, 1, 32, 32), -1.0)
    x[:, :, 8:16, 8:24] = 0.2
    u = torch.stack([torch.linspace(0, 1, 4)] * 4)
    louder = gain(x, u)
    assert (louder[x == -1] == -1).all()
    assert louder[0, 0, 10, 10] < 0.2 < louder[3, 0, 10, 10]
    moved = shift(x, u)
    assert torch.equal(moved.sum((1, 2, 3)), x.sum((1, 2, 3)))
    assert torch.equal((moved[:, 0] > 0).any(2), (x[:, 0] > 0).any(2))  # no band moved
    ones = torch.ones(4, 1, 32, 32)
    assert ((masks(ones, u) == -1).float().mean((1, 2, 3)) == 1 - (28 / 32) ** 2).all()


# ---- metrics


def test_silence_and_pure_tones_are_counted():
    rng = np.random.default_rng(0)
    voices = rng.normal(0, 3000, (2, 1, 8000))
    sounds = np.concatenate([voices, np.zeros((1, 1, 8000)), 16000 * tone(440, 1.0)[None, None]]).astype(np.int16)
    found = faults(sounds, RATE)
    assert found == {"silent": 0.25, "silent_error": 0.25, "tonal": 0.25, "tonal_error": 0.25}


def test_nearest_is_the_median_distance_to_training_features():
    train = np.array([[0.0, 0.0], [10.0, 0.0]], np.float32)
    assert nearest(np.array([[1.0, 0.0], [10.0, 3.0], [20.0, 0.0]], np.float32), train) == 3.0


def test_mel_cepstral_distortion_has_its_closed_form_and_forgives_tempo():
    a = np.random.default_rng(0).normal(size=(20, 13))
    assert mel_cepstral_distortion(a, a) == 0
    assert mel_cepstral_distortion(a, np.repeat(a, 2, axis=0)) == 0
    still = np.zeros((5, 13))
    assert mel_cepstral_distortion(still, still + 1) == pytest.approx(10 * math.sqrt(2 * 13) / math.log(10))
    assert np.allclose(matched(a, (a.mean(0), a.std(0)), (a.mean(0) + 2, 3 * a.std(0))).mean(0), a.mean(0) + 2)


def test_cepstra_leave_loudness_out():
    audio, wave = an_audio(), np.random.default_rng(0).normal(0, 6000, (1, 2048)).astype(np.int16)
    assert np.abs(cepstra(audio, wave) - cepstra(audio, wave // 2)).max() < 0.02


def test_stoi_is_one_for_the_same_speech_and_low_for_noise():
    if not (SHARED / "fsdd").exists():
        pytest.skip("real data absent: ../shared/data/fsdd")
    data = prepare_audio(open_source(f"{SHARED / 'fsdd'}"), strict=False).data[:400:20, 0] / 32767
    assert stoi(data, data, RATE) == pytest.approx(1, abs=1e-4)
    noise = np.random.default_rng(0).normal(0, 0.1, data.shape)
    assert stoi(noise, data, RATE) < 0.4


# ---- the whole way


SMALL = ["vocoder.steps=3", "vocoder.dim=16", "vocoder.depth=1", "train.batch_size=8", "evaluate.samples=32",
         "evaluate.final_samples=32", "evaluate.extractor=random", "model.latent_dim=4"]  # fmt: skip
GAN = ["model.generator={kind: conv, width: 8}", "model.discriminator={kind: conv, width: 8, features: 16}"]
CYCLE_VAE = ["model.encoder={kind: conv, width: 8, features: 16}", "model.decoder={kind: conv, width: 8}",
             "model.critic={kind: conv, width: 8, features: 16}", "evaluate.likelihood_items=8",
             "evaluate.importance_samples=2", "evaluate.samplers=[gmm]"]  # fmt: skip


def run(*arguments) -> None:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_a_conditional_gan_on_the_built_in_tones_by_command(tmp_path):
    model = tmp_path / "run"
    api.train("gan-audio", "builtin:tones", out=model, steps=4, settings=[*SMALL, *GAN, "data.label=note"])
    run("sample", model, "-n", "24", "--label", "all", "--out", tmp_path / "x.npy")
    waves = np.load(tmp_path / "x.npy")
    assert (waves.shape, waves.dtype.name) == ((24, 4096), "float32")
    assert np.abs(waves).max() <= 1
    run("sample", model, "-n", "3", "--out", tmp_path / "wavs")
    assert sorted(p.name for p in (tmp_path / "wavs").iterdir()) == ["000000.wav", "000001.wav", "000002.wav"]
    run("interpolate", model, "--out", tmp_path / "way.wav")
    assert soundfile.info(tmp_path / "way.wav").samplerate == RATE
    assert list((model / "previews").glob("*.png")) and list((model / "previews").glob("*.wav"))
    found = json.loads((model / "evaluation.json").read_text())
    assert {"samples", "real held-out data", "real through the codec"} == found["rows"].keys()
    assert {"multi_resolution_stft", "mel_db", "stoi"} == found["sound"]["codec"].keys()
    run("evaluate", "--samples", tmp_path / "x.npy", "--data", "builtin:tones")


def test_conversion_of_long_and_short_recordings_keeps_names_lengths_and_order(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write_folder(folder)
    model = tmp_path / "run"
    settings = [*SMALL, *CYCLE_VAE, "data.label_pattern={digit}_{speaker}_{take}", "data.label=speaker"]
    api.train("cyclevae-audio", str(folder), out=model, steps=3, settings=settings)
    use = tmp_path / "use" / "sub"
    use.mkdir(parents=True)
    soundfile.write(use / "1_ann_1.wav", tone(300, 2.345), RATE)
    soundfile.write(use / "2_ann_2.flac", tone(300, 0.111), RATE)
    run("translate", model, tmp_path / "use", "--to", "bob", "--out", tmp_path / "out")
    lengths = {p.relative_to(tmp_path / "out").as_posix(): soundfile.info(p).frames
               for p in (tmp_path / "out").rglob("*.wav")}  # fmt: skip
    assert lengths == {"sub/1_ann_1.wav": 18760, "sub/2_ann_2.wav": 888}
    run("translate", model, tmp_path / "use", "--to", "bob", "--out", tmp_path / "out.npy")
    assert len(np.load(tmp_path / "out.npy")) == 2


def test_the_built_in_notes_have_the_pitch_that_they_are_named_for():
    source = open_source("builtin:tones")
    waves, notes = source.array(), source.labels["note"]
    assert waves is not None
    for row in range(12):  # pure tones come first
        want = dict(NOTES)[notes[row]]
        assert 1200 * abs(math.log2(pitch_of(waves[row, 200:2800]) / want)) < 12


def test_stereo_is_kept_on_request_through_pictures_files_and_a_cycle_gan(tmp_path):
    for side, hz in (("a", 300), ("b", 700)):
        (tmp_path / side).mkdir()
        for i in range(40):
            both = np.stack([tone(hz + 5 * i, 0.3), tone(2 * hz, 0.3)], 1)
            soundfile.write(tmp_path / side / f"{i:02d}.wav", both, RATE)
    settings = [*SMALL[:-1], "model.to_a={width: 4, blocks: 1}", "model.to_b={width: 4, blocks: 1}",
                "model.critic_a={width: 4}", "model.critic_b={width: 4}", "data.channels=2"]  # fmt: skip
    for key, value in (("rate", 16000), ("seconds", 1), ("channels", 1)):
        with pytest.raises(UsageError, match=rf"leave data_b\.{key} out"):
            api.train("cyclegan-audio", str(tmp_path / "a"), str(tmp_path / "b"), out=tmp_path / "no", steps=2,
                      settings=[*settings, f"data_b.{key}={value}"])  # fmt: skip
    api.train("cyclegan-audio", str(tmp_path / "a"), str(tmp_path / "b"), out=tmp_path / "run", steps=2,
              settings=[*settings, "data_b.channels=2", f"data_b.rate={RATE}"])  # fmt: skip
    run("translate", tmp_path / "run", tmp_path / "a", "--to", "b", "--out", tmp_path / "out.v2")
    assert {soundfile.info(p).channels for p in (tmp_path / "out.v2").glob("*.wav")} == {2}
    run("translate", tmp_path / "run", tmp_path / "a" / "00.wav", "--to", "b", "--out", tmp_path / "one.wav")
    assert soundfile.info(tmp_path / "one.wav").frames == 2400 + 1200  # the recording, and a pause


def test_a_model_is_used_on_recordings_of_any_name_and_content_must_be_known(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write_folder(folder)
    pattern = ["data.label_pattern={digit}_{speaker}_{take}", "data.label=speaker"]
    with pytest.raises(UsageError, match="Did you mean 'digit'"):
        api.train("cyclevae-audio", str(folder), out=tmp_path / "no", settings=[*pattern, "evaluate.content=digits"])
    settings = [*SMALL, *CYCLE_VAE, *pattern, "evaluate.content=digit"]
    api.train("cyclevae-audio", str(folder), out=tmp_path / "run", steps=2, settings=settings)
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())["heard"]
    assert {"domain_right", "content_kept"} <= found.keys()
    use = tmp_path / "use"
    use.mkdir()
    soundfile.write(use / "hello.wav", tone(300, 1.2), RATE)
    run("translate", tmp_path / "run", use, "--to", "ann", "--out", tmp_path / "out")
    assert soundfile.info(tmp_path / "out" / "hello.wav").frames == 9600
    # the vocoder of another run fits where the spectrograms are alike, and is refused in a sentence elsewhere
    api.train("vae-audio", str(folder), out=tmp_path / "other", steps=2,
              settings=[*SMALL, *CYCLE_VAE[:2], *CYCLE_VAE[3:], f"vocoder.source={tmp_path / 'run'}"])  # fmt: skip
    one, other = (load_tensors(tmp_path / name / "model" / "vocoder.safetensors") for name in ("run", "other"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    with pytest.raises(UsageError, match="other sound"):
        api.train("vae-audio", str(folder), out=tmp_path / "third", steps=2,
                  settings=[*SMALL, "data.rate=16000", f"vocoder.source={tmp_path / 'run'}"])  # fmt: skip


def test_recordings_that_cancel_when_mixed_are_left_out(tmp_path):
    left = tone(300, 0.3)
    for i in range(40):
        soundfile.write(tmp_path / f"{i:02d}.wav", np.stack([left, left], 1), RATE)
    soundfile.write(tmp_path / "z.wav", np.stack([left, -left], 1), RATE)
    data = prepare_audio(open_source(str(tmp_path)))
    assert [reason for _, reason in data.skipped] == ["silent once its channels are mixed"]


def test_one_long_recording_is_enough(tmp_path):
    soundfile.write(tmp_path / "long.wav", np.concatenate([tone(300 + k, 1.0) for k in range(40)]), RATE)
    assert len(prepare_audio(open_source(str(tmp_path)), seconds=0.5)) >= 40


@pytest.mark.parametrize("recipe", ["gan-audio", "cyclevae-audio"])
def test_stopped_and_resumed_equals_never_stopped(tmp_path, monkeypatch, recipe):
    nets = GAN if recipe == "gan-audio" else CYCLE_VAE
    settings = [*SMALL, *nets, "data.label=note", "train.checkpoint_every=2", "train.evaluate_every=5"]
    train = lambda name: api.train(recipe, "builtin:tones", out=tmp_path / name, steps=6, settings=settings)
    train("whole")
    monkeypatch.setenv("MORPHOGEN_CACHE", str(tmp_path / "empty"))  # the vocoder is then the run folder's
    with stopping_after(monkeypatch, 3):
        train("cut")
    train("cut")
    assert_same(final_state(tmp_path / "cut", 6), final_state(tmp_path / "whole", 6))
    for file in ("weights.safetensors", "vocoder.safetensors"):
        assert (tmp_path / "whole/model" / file).read_bytes() == (tmp_path / "cut/model" / file).read_bytes()
