for (const plot of document.querySelectorAll("svg.plot")) {
  const readout = plot.parentElement.querySelector(".readout");
  const points = [...plot.querySelectorAll(".mark, .spot")];
  let near = null;
  const read = (point) => {
    near?.classList.remove("on");
    near = point;
    near?.classList.add("on");
    readout.textContent = near?.querySelector("title").textContent ?? "";
  };
  const distance = (point, event) => {
    const box = point.getBoundingClientRect();
    return Math.hypot(box.x + box.width / 2 - event.clientX, box.y + box.height / 2 - event.clientY);
  };
  plot.addEventListener("pointermove", (event) => {
    let best = null, least = 40;
    for (const point of points) {
      const d = distance(point, event);
      if (d < least) [best, least] = [point, d];
    }
    read(best);
  });
  plot.addEventListener("pointerleave", () => read(null));
}
