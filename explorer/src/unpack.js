/**
 * Runs the page's script, which lies in it compressed: so the page is a quarter as large. Its security policy knows the
 * script by its hash.
 */
const packed = Uint8Array.from(atob(document.getElementById("packed").textContent), (c) => c.charCodeAt(0));
if (!globalThis.DecompressionStream) {
  document.getElementById("problems").textContent = "This page needs a browser of 2023 or newer.";
} else {
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  new Response(stream).text().then((text) => {
    const script = document.createElement("script");
    script.textContent = text;
    document.body.append(script);
  });
}
