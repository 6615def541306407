(() => {
  const { trace, looks, layout } = JSON.parse(document.getElementById("figure").textContent);
  const plot = document.getElementById("plot"), select = document.getElementById("look");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const buttons = [["toImage", "resetCameraDefault3d"]];
  const config = { displaylogo: false, responsive: true, showTips: false, modeBarButtons: buttons };

  function coloured() {
    const style = getComputedStyle(document.body), line = style.getPropertyValue("--line");
    const axis = { gridcolor: line, zerolinecolor: line, backgroundcolor: "rgba(0,0,0,0)", showspikes: false };
    const scene = { ...layout.scene, uirevision: "kept" };
    for (const name of ["xaxis", "yaxis", "zaxis"]) scene[name] = { ...axis, ...scene[name] };
    return {
      scene, uirevision: "kept", margin: { l: 0, r: 0, t: 0, b: 0 },
      paper_bgcolor: "rgba(0,0,0,0)", font: { color: style.color, size: 12 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: style.color, activecolor: style.color },
    };
  }

  function show() {
    const look = looks[select.value];
    const data = [{ ...trace, ...look.trace, colorbar: { ...trace.colorbar, title: { text: look.label } } }];
    return Plotly.react(plot, data, coloured(), config);
  }

  select.addEventListener("change", show);
  dark.addEventListener("change", show);
  show();
})();
