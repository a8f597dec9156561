//! One suite for a folder and for a server that speaks S3.

use super::{s3_server::S3Server, testing::Kept, *};

async fn read(artifacts: &Artifacts, digest: Digest, range: Range<u64>) -> Vec<u8> {
    let chunks: Vec<Bytes> = artifacts
        .open(digest, range)
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    chunks.concat()
}

fn stream(bytes: &[u8]) -> impl Stream<Item = Result<Bytes, BoxError>> + Unpin + Send + use<> {
    let bytes = Bytes::copy_from_slice(bytes);
    let chunk = 60_000;
    let chunks = (0..bytes.len().div_ceil(chunk))
        .map(move |i| Ok(bytes.slice(i * chunk..bytes.len().min((i + 1) * chunk))));
    futures::stream::iter(chunks)
}

#[tokio::test]
async fn an_artefact_is_read_whole_and_in_ranges() {
    for kept in Kept::both().await {
        let artifacts = kept.open();
        let bytes: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
        let digest = artifacts.put_bytes(bytes.clone().into()).await.unwrap();
        assert_eq!(artifacts.size(digest).await.unwrap(), Some(300_000));
        assert_eq!(read(&artifacts, digest, 0..300_000).await, bytes);
        assert_eq!(
            read(&artifacts, digest, 65_530..65_560).await,
            &bytes[65_530..65_560]
        );
        assert!(read(&artifacts, digest, 5..5).await.is_empty());
        assert_eq!(kept.files(), 1);
    }
}

#[tokio::test]
async fn a_large_artefact_goes_in_parts_and_appears_whole() {
    let bytes: Vec<u8> = (0..2 * PART_BYTES as u32 + 100_000)
        .map(|i| (i % 249) as u8)
        .collect();
    let digest = Digest::of(&bytes);
    for kept in Kept::both().await {
        let artifacts = kept.open();
        let stored = artifacts.put_stream(digest, stream(&bytes)).await.unwrap();
        assert_eq!(stored, bytes.len() as u64);
        let edge = PART_BYTES as u64;
        assert_eq!(
            read(&artifacts, digest, edge - 5..edge + 5).await,
            &bytes[PART_BYTES - 5..PART_BYTES + 5]
        );
        let end = bytes.len();
        assert_eq!(
            read(&artifacts, digest, end as u64 - 9..end as u64).await,
            &bytes[end - 9..]
        );
        assert_eq!(kept.files(), 1);
    }
}

#[tokio::test]
async fn wrong_or_broken_bytes_leave_nothing() {
    for kept in Kept::both().await {
        let artifacts = kept.open();
        let expected = Digest::of(b"film");
        let large = vec![0; PART_BYTES + 1];
        for wrong in [&b"fraud"[..], b"", &large] {
            let error = artifacts.put_stream(expected, stream(wrong)).await;
            let error = error.unwrap_err();
            assert!(
                matches!(error, ArtifactError::WrongDigest { .. }),
                "{error}"
            );
        }
        let reset = futures::stream::iter([Err(BoxError::from("connection reset"))]);
        let broken = stream(&large).chain(reset);
        let error = artifacts.put_stream(expected, broken).await.unwrap_err();
        assert!(matches!(error, ArtifactError::BrokenOff(_)), "{error}");
        assert_eq!(artifacts.size(expected).await.unwrap(), None);
        assert_eq!(kept.files(), 0);
        let missing = artifacts.open(expected, 0..1).await.err().unwrap();
        assert!(matches!(missing, ArtifactError::NotFound(_)), "{missing}");
    }
}

#[tokio::test]
async fn a_second_upload_is_a_success_and_makes_young_again() {
    for kept in Kept::both().await {
        let artifacts = kept.open();
        let digest = artifacts.put_bytes("film".into()).await.unwrap();
        kept.age(digest, Duration::from_secs(7_200));
        let old = artifacts.modified(digest).await.unwrap().unwrap();
        let again = artifacts.put_bytes("film".into()).await.unwrap();
        assert_eq!(again, digest);
        let young = artifacts.modified(digest).await.unwrap().unwrap();
        assert!(
            young > old + Duration::from_secs(7_000),
            "{old:?} {young:?}"
        );
        assert_eq!(kept.files(), 1);
    }
}

#[tokio::test]
async fn artefacts_are_listed_and_removed_and_a_probe_leaves_nothing() {
    for kept in Kept::both().await {
        let artifacts = kept.open();
        let digest = artifacts.put_bytes("film".into()).await.unwrap();
        artifacts.probe().await.unwrap();
        let listed: Vec<Stored> = artifacts.list().try_collect().await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].digest, listed[0].bytes), (digest, 4));
        artifacts.remove(digest).await.unwrap();
        artifacts.remove(digest).await.unwrap();
        assert_eq!(artifacts.size(digest).await.unwrap(), None);
        assert_eq!(kept.files(), 0);
    }
}

#[tokio::test]
async fn a_start_removes_what_a_crash_left_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let artifacts = Artifacts::in_folder(folder.path()).unwrap();
    let digest = artifacts.put_bytes("film".into()).await.unwrap();
    let shelf = folder.path().join(FOLDER).join(&digest.to_string()[..2]);
    std::fs::write(shelf.join(format!("{digest}#1")), "half").unwrap();
    let (kept, s3) = (Kept::Folder(folder), S3Settings::default());
    let url = ArtifactsUrl::Folder(kept.shelves());
    Artifacts::open_at(url.clone(), &s3).unwrap();
    assert_eq!(
        kept.files(),
        2,
        "a doctor leaves what a scheduler is writing"
    );
    Artifacts::open_to_write(url, &s3).await.unwrap();
    assert_eq!(kept.files(), 1);
}

#[tokio::test]
async fn wrong_keys_say_what_to_check() {
    let server = S3Server::start().await;
    let right = server.settings();
    let stranger = S3Settings {
        access_key_id: Some("AKIASTRANGER".into()),
        ..right.clone()
    };
    let liar = S3Settings {
        secret_access_key: Some("guessed".into()),
        ..right
    };
    for settings in [stranger, liar] {
        let artifacts = Artifacts::open_to_write(S3Server::url(), &settings).await;
        let error = artifacts.unwrap_err();
        assert!(matches!(error, ArtifactError::Refused { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains("s3://films/farm/one") && text.contains("AWS_SECRET_ACCESS_KEY"),
            "{text}"
        );
        assert!(!text.contains("guessed"), "{text}");
    }
}

#[tokio::test]
async fn a_server_that_is_away_holds_up_no_start_and_answers_later() {
    let server = S3Server::start().await;
    server.set_away(true);
    let artifacts = Artifacts::open_to_write(S3Server::url(), &server.settings()).await;
    let artifacts = artifacts.unwrap();
    server.set_away(false);
    let digest = artifacts.put_bytes("film".into()).await.unwrap();
    assert_eq!(artifacts.size(digest).await.unwrap(), Some(4));
}
