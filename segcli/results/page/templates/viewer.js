"use strict";
(() => {
  // The interactive viewer: NiiVue from this page itself, on volumes from this page itself.
  const section = document.getElementById("viewer");
  const button = section.querySelector("button");
  const message = section.querySelector("p[role=status]");
  section.hidden = false;
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const volumes = JSON.parse(document.getElementById("volumes").textContent);
      const canvas = section.querySelector("canvas");
      canvas.parentElement.hidden = false;
      const viewer = new niivue.Niivue({
        dragAndDropEnabled: false, isRadiologicalConvention: true, sagittalNoseLeft: true, logLevel: "error",
      });
      await viewer.attachToCanvas(canvas);
      const bytes = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)).buffer;
      await viewer.loadFromArrayBuffer(bytes(volumes.image), "scan.nii.gz");
      await viewer.loadFromArrayBuffer(bytes(volumes.labels), "labels.nii.gz");
      viewer.volumes[1].setColormapLabel(volumes.colours);
      viewer.setOpacity(1, 0.5);
      viewer.updateGLVolume();
      viewer.setSliceType(viewer.sliceTypeMultiplanar);
      message.textContent = "Scroll or drag to move; the label's name is under the cross-hair.";
      viewer.onLocationChange = (at) => {
        message.textContent = at.values.map((v) => v.label || v.value).join(" · ");
      };
      section.dataset.state = "ready";
    } catch (error) {
      message.textContent = `The interactive viewer did not start (${error.message}); the slices above remain.`;
      section.dataset.state = "failed";
    }
  });
})();
