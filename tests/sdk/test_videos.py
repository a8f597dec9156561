"""Conformance of the Videos API with the unmodified official Python SDK, against a running farm.

Needs `pip install openai`, and in the environment:
    DAILIES_BASE_URL   such as http://127.0.0.1:8080/v1
    DAILIES_API_KEY    a key of a project without videos of its own

Run it with `python test_videos.py`. A few films are rendered: the SDK's defaults, and small ones.
"""

import asyncio
import base64
import io
import os
import struct
import unittest
import zlib

import openai

try:  # what the SDK itself speaks HTTP with
    import httpx2 as httpx
except ImportError:
    import httpx

BASE_URL = os.environ["DAILIES_BASE_URL"]
API_KEY = os.environ["DAILIES_API_KEY"]
CONTRACT_KEYS = {
    "id", "object", "model", "status", "progress", "created_at", "completed_at",
    "expires_at", "prompt", "seconds", "size", "remixed_from_video_id", "error",
}  # fmt: skip
# A small film that renders quickly.
SMALL = {"model": "builtin", "size": "64x64", "seconds": "1", "extra_body": {"steps": 2}}


def png(width, height):
    """A red image, as bytes."""
    row = b"\0" + b"\xc8\x28\x28" * width

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(row * height))
        + chunk(b"IEND", b"")
    )


def client(**options):
    return openai.OpenAI(base_url=BASE_URL, api_key=API_KEY, **options)


class Videos(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.client = client()

    def queued(self, **options):
        """A video that is deleted again before or while it renders."""
        options = {"prompt": "a red ball falls", **SMALL, **options}
        video = self.client.videos.create(**options)
        self.addCleanup(self.forget, video.id)
        return video

    def forget(self, video_id):
        try:
            self.client.videos.delete(video_id)
        except openai.NotFoundError:
            pass

    # --- one film, from the prompt to the bytes -------------------------------------------------

    def test_create_and_poll_with_the_defaults_of_the_sdk(self):
        video = self.client.videos.create_and_poll(prompt="a red ball falls")
        self.addCleanup(self.forget, video.id)
        self.assertEqual(video.status, "completed", video.error)
        self.assertEqual(video.progress, 100)
        self.assertEqual((video.model, video.seconds, video.size), ("sora-2", "4", "720x1280"))
        self.assertEqual(video.native_size, "64x112")
        self.assertGreaterEqual(video.completed_at, video.created_at)
        self.check_downloads(video.id)
        self.check_ranges(video.id)

    def check_downloads(self, video_id):
        film = self.client.videos.download_content(video_id)
        data = film.read()
        self.assertEqual(data[4:8], b"ftyp")
        self.assertLess(data.index(b"moov"), data.index(b"mdat"), "moov comes first")
        self.assertEqual(film.response.headers["content-type"], "video/mp4")
        self.assertEqual(int(film.response.headers["content-length"]), len(data))
        thumbnail = self.client.videos.download_content(video_id, variant="thumbnail").read()
        self.assertEqual((thumbnail[:4], thumbnail[8:12]), (b"RIFF", b"WEBP"))
        sheet = self.client.videos.download_content(video_id, variant="spritesheet").read()
        self.assertEqual(sheet[:3], b"\xff\xd8\xff")
        with self.client.videos.with_streaming_response.download_content(video_id) as stream:
            self.assertEqual(b"".join(stream.iter_bytes()), data)

    def check_ranges(self, video_id):
        url = f"{BASE_URL}/videos/{video_id}/content"
        auth = {"Authorization": f"Bearer {API_KEY}"}
        whole = httpx.get(url, headers=auth)
        part = httpx.get(url, headers={**auth, "Range": "bytes=4-7"})
        self.assertEqual((part.status_code, part.content), (206, b"ftyp"))
        known = httpx.get(url, headers={**auth, "If-None-Match": whole.headers["etag"]})
        self.assertEqual(known.status_code, 304)
        head = httpx.head(url, headers=auth)
        self.assertEqual(head.headers["content-length"], str(len(whole.content)))

    def test_the_async_client_polls_a_film_with_a_first_frame(self):
        async def run():
            async with openai.AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY) as farm:
                video = await farm.videos.create_and_poll(
                    prompt="a red ball falls", input_reference=("a.png", png(64, 64)), **SMALL
                )
                content = await farm.videos.download_content(video.id)
                await farm.videos.delete(video.id)
                return video, content.content

        video, content = asyncio.run(run())
        self.assertEqual(video.status, "completed", video.error)
        self.assertEqual(content[4:8], b"ftyp")

    # --- states, lists, deletion ------------------------------------------------------------------

    def test_a_new_video_has_all_keys_and_can_be_retrieved(self):
        raw = self.client.videos.with_raw_response.create(prompt="a ball\nfalls", **SMALL)
        video = raw.parse()
        self.addCleanup(self.forget, video.id)
        self.assertLessEqual(CONTRACT_KEYS, set(raw.http_response.json()))
        self.assertIn(video.status, ("queued", "in_progress"))
        self.assertEqual((video.prompt, video.seconds), ("a ball\nfalls", "1"))
        self.assertRegex(video.id, "^video_[0-9a-f]{48}$")
        self.assertRegex(raw.headers["x-request-id"], "^req_[0-9a-f]{32}$")
        again = self.client.videos.with_raw_response.retrieve(video.id)
        self.assertEqual(again.parse().id, video.id)
        if again.parse().status in ("queued", "in_progress"):
            self.assertIn(int(again.headers["openai-poll-after-ms"]), range(500, 15_001))

    def test_extensions_pass_through_extra_body(self):
        small = {**SMALL, "extra_body": {"steps": 2, "seed": 42, "metadata": {"show": "pilot"}}}
        video = self.client.videos.create(prompt="a ball", **small)
        self.addCleanup(self.forget, video.id)
        self.assertEqual((video.seed, video.steps), (42, 2))
        self.assertEqual(video.metadata, {"show": "pilot"})
        shots = [{"prompt": "a ball", "seconds": 1}, {"prompt": "a star", "seconds": 2}]
        board = self.client.videos.create(
            prompt="neon", extra_headers={"Content-Type": "application/json"},
            extra_body={"prompt": "neon", "model": "builtin", "size": "64x64", "shots": shots},
        )  # fmt: skip
        self.addCleanup(self.forget, board.id)
        self.assertEqual((board.seconds, len(board.shots)), ("3", 2))
        form = {"size": "64x64", "extra_body": {"shots": shots}}
        board = self.client.videos.create(prompt="neon", model="builtin", **form)
        self.addCleanup(self.forget, board.id)
        self.assertEqual([shot["seconds"] for shot in board.shots], ["1", "2"])

    def test_pages_iterate_by_themselves_in_both_orders(self):
        ids = [self.queued(prompt=f"ball {n}").id for n in range(5)]
        newest = [v.id for v in self.client.videos.list(limit=2) if v.id in ids]
        self.assertEqual(newest, ids[::-1])
        oldest = [v.id for v in self.client.videos.list(limit=2, order="asc") if v.id in ids]
        self.assertEqual(oldest, ids)
        self.assertEqual(self.client.videos.list(limit=0).data, [])

    def test_delete_cancels_and_forgets(self):
        video = self.queued()
        deleted = self.client.videos.delete(video.id)
        self.assertEqual((deleted.id, deleted.deleted), (video.id, True))
        self.assertEqual(deleted.object, "video.deleted")
        with self.assertRaises(openai.NotFoundError):
            self.client.videos.retrieve(video.id)

    def test_cancel_is_an_end_for_the_poll_helper(self):
        video = self.queued(seconds="20", extra_body={"steps": 100})
        cancelled = self.client.post(f"/videos/{video.id}/cancel", cast_to=type(video))
        self.assertEqual(cancelled.status, "cancelled")
        self.assertEqual(self.client.videos.poll(video.id).status, "cancelled")
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.videos.download_content(video.id)
        self.assertEqual(caught.exception.code, "video_failed")

    def test_models(self):
        names = {model.id for model in self.client.models.list()}
        self.assertLessEqual({"sora-2", "sora-2-pro", "builtin"}, names)
        self.assertEqual(self.client.models.retrieve("sora-2").object, "model")

    # --- references -------------------------------------------------------------------------------

    def test_references_are_judged_by_their_bytes(self):
        image = png(64, 64)
        self.queued(input_reference=("photo.txt", image, "text/plain"))
        self.queued(input_reference=image)
        self.queued(input_reference=io.BytesIO(image))
        data_url = "data:image/png;base64," + base64.b64encode(image).decode()
        body = {"prompt": "a ball", "model": "builtin", "size": "64x64", "seconds": "1",
                "input_reference": {"image_url": data_url}}  # fmt: skip
        video = self.client.videos.create(
            prompt="a ball", extra_headers={"Content-Type": "application/json"}, extra_body=body
        )
        self.addCleanup(self.forget, video.id)
        self.refused(openai.BadRequestError, "invalid_image", "input_reference",
                     input_reference=("a.png", b"no image", "image/png"))  # fmt: skip
        error = self.refused(openai.BadRequestError, "invalid_value", "input_reference",
                             input_reference=png(32, 64))  # fmt: skip
        self.assertIn("Inpaint image must match the requested width and height", error.message)
        cover = {"steps": 2, "reference_fit": "cover"}
        self.queued(input_reference=png(32, 64), extra_body=cover)

    # --- errors -----------------------------------------------------------------------------------

    def refused(self, kind, code, param, **options):
        with self.assertRaises(kind) as caught:
            self.client.videos.create(**{"prompt": "a ball", **SMALL, **options})
        error = caught.exception
        self.assertEqual((error.code, error.param), (code, param), error.message)
        self.assertTrue(error.request_id.startswith("req_"))
        self.assertEqual(error.type, "invalid_request_error")
        return error

    # --- videos made of others ------------------------------------------------------------------

    def small_film(self):
        """A finished film of a second, rendered once for all tests."""
        cls = type(self)
        if not hasattr(cls, "film"):
            cls.film = self.client.videos.create_and_poll(prompt="a red ball falls", **SMALL)
        return cls.film

    def finished(self, video):
        self.addCleanup(self.forget, video.id)
        video = self.client.videos.poll(video.id)
        self.assertEqual(video.status, "completed", video.error)
        return video

    def test_remix_takes_size_and_seconds_of_its_video(self):
        film = self.small_film()
        extra = {"steps": 2, "strength": 0.5}
        remix = self.client.videos.remix(film.id, prompt="a green ball falls", extra_body=extra)
        self.assertEqual((remix.size, remix.seconds), (film.size, film.seconds))
        self.assertEqual(remix.remixed_from_video_id, film.id)
        self.finished(remix)

    def test_extend_and_edit_by_id_through_extra_body(self):
        film = self.small_film()
        body = {"video": {"id": film.id}, "steps": 2}
        longer = self.client.videos.extend(
            prompt="it rolls on", seconds="1", video=openai.omit, extra_body=body
        )
        self.assertEqual(longer.seconds, "2")
        longer = self.finished(longer)
        content = self.client.videos.download_content(longer.id).read()
        self.assertEqual(content[4:8], b"ftyp")
        edit = self.client.videos.edit(
            prompt="a green ball falls", video=openai.omit, extra_body=body
        )
        self.addCleanup(self.forget, edit.id)
        self.assertEqual(edit.remixed_from_video_id, film.id)

    def test_extend_and_edit_a_film_that_is_uploaded(self):
        film = self.client.videos.download_content(self.small_film().id).read()
        body = {"steps": 2}
        longer = self.client.videos.extend(
            prompt="it rolls on", seconds="1", video=("film.mp4", film), extra_body={**body, "model": "builtin"}
        )
        self.assertEqual((longer.seconds, longer.size), ("2", self.small_film().size))
        self.finished(longer)
        edit = self.client.videos.edit(
            prompt="a green ball falls", video=film, extra_body={**body, "model": "builtin"}
        )
        self.assertEqual((edit.seconds, edit.remixed_from_video_id), ("1", None))
        self.finished(edit)

    def test_bad_requests_raise_typed_exceptions(self):
        bad = openai.BadRequestError
        self.refused(bad, "invalid_value", "prompt", prompt="")
        self.refused(bad, "invalid_value", "prompt", prompt="x" * 32_001)
        self.refused(bad, "invalid_value", "seconds", seconds="21")
        self.refused(bad, "invalid_value", "seconds", model="sora-2", seconds="5")
        self.refused(bad, "invalid_value", "size", size="640x480")
        error = self.refused(bad, "unknown_parameter", "sead", extra_body={"sead": 1})
        self.assertIn("'seed'", error.message)
        self.refused(openai.NotFoundError, "model_not_found", "model", model="sora-9")

    def test_a_body_that_is_too_large_gets_an_answer(self):
        too_large = b"\x89PNG" + b"\0" * (33 << 20)
        with self.assertRaises(openai.APIStatusError) as caught:
            self.client.videos.create(prompt="a ball", input_reference=too_large, **SMALL)
        self.assertEqual(caught.exception.status_code, 413)
        self.assertEqual(caught.exception.code, "request_too_large")
        stranger = openai.OpenAI(base_url=BASE_URL, api_key="sk-wrong", max_retries=0)
        with self.assertRaises(openai.AuthenticationError):
            stranger.videos.create(prompt="a ball", input_reference=too_large, **SMALL)

    def test_unknown_ids_and_wrong_keys_raise_typed_exceptions(self):
        for video_id in ("video_" + "0" * 48, "nonsense"):
            with self.assertRaises(openai.NotFoundError) as caught:
                self.client.videos.retrieve(video_id)
            self.assertEqual(caught.exception.code, "not_found")
        stranger = openai.OpenAI(base_url=BASE_URL, api_key="sk-wrong")
        with self.assertRaises(openai.AuthenticationError) as caught:
            stranger.videos.list()
        self.assertEqual(caught.exception.code, "invalid_api_key")

    def test_content_of_an_unfinished_video_is_refused_and_not_retried(self):
        video = self.queued(seconds="20", extra_body={"steps": 100})
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.videos.download_content(video.id)
        self.assertEqual(caught.exception.code, "video_not_ready")

    def test_a_lost_answer_is_not_rendered_twice(self):
        """The first answer is dropped on its way; the SDK repeats the call on its own."""
        answers = []

        class LosesTheFirst(httpx.HTTPTransport):
            def handle_request(self, request):
                response = super().handle_request(request)
                response.read()
                answers.append(response.json()["id"])
                if len(answers) == 1:
                    raise httpx.ReadError("lost", request=request)
                return response

        lossy = client(http_client=httpx.Client(transport=LosesTheFirst()), max_retries=2)
        prompt = f"a lost ball {os.getpid()}"
        video = lossy.videos.create(prompt=prompt, **SMALL)
        self.addCleanup(self.forget, video.id)
        self.assertEqual(answers, [video.id, video.id])


if __name__ == "__main__":
    unittest.main(verbosity=2, warnings="ignore")
