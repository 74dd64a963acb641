// The live curve of a loss's page takes the colours of the page, also when they are switched.
const live = document.querySelector("iframe.live");
if (live) {
  const address = live.src;
  const follow = () => {
    const dark = document.body.dataset.mdColorScheme === "slate";
    live.src = `${address}&theme=${dark ? "dark" : "light"}`;
  };
  new MutationObserver(follow).observe(document.body, { attributeFilter: ["data-md-color-scheme"] });
  follow();
}
