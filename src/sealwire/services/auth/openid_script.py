"""The one script of the sign-in pages: a browser can be asked for a passkey in no other way.

It reads what it asks from the form it stands beside, puts the answer into a hidden field and sends the form: it fetches
nothing, writes no HTML, and where it does not run the rest of the page works as it does without it.
"""

from __future__ import annotations

from typing import Final

SCRIPT: Final = b"""\
"use strict";
for (const form of document.querySelectorAll("form[data-options]")) {
    const button = form.querySelector("button");
    const fault = form.querySelector("[role=alert]");
    const read = window.PublicKeyCredential && PublicKeyCredential.parseRequestOptionsFromJSON;
    // Not on an address that no passkey is for, and not in a browser that can't be asked: nothing is promised there.
    if (!read || location.origin !== form.dataset.origin) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
        button.disabled = true;
        fault.hidden = true;
        try {
            const publicKey = PublicKeyCredential.parseRequestOptionsFromJSON(JSON.parse(form.dataset.options));
            const found = await navigator.credentials.get({publicKey});
            form.elements.namedItem("assertion").value = JSON.stringify(found.toJSON());
            form.submit();
        } catch {
            button.disabled = false;
            fault.hidden = false;
        }
    });
}
"""
