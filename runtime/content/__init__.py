"""Images on disk: blobs, unpacked layers, container snapshots and the archives they come and go in.

    <data_root>/content/            OCI image layout: oci-layout, index.json, blobs/sha256/<hex>
    <data_root>/content/ingest/     blobs being written; emptied at start
    <data_root>/layers/<chain hex>/ one unpacked layer: diff/ and layer.json
    <data_root>/snapshots/<id>/     a container's overlay: upper/ and work/
    <data_root>/spares/             snapshots made ahead
    <data_root>/trash/              what was removed and awaits deletion

Everything appears by rename, so what a killed process leaves behind is never taken for content.
"""
